"""Under FSDP 2: the subspaces, merging and the export are those of the whole model."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import fully_shard

from deep_lora import initialize_subspaces_, kept_ranks, to_lora
from tests.models import adapt, disturb_, ids, llama
from tests.processes import results_of_two


def model(**settings):
    torch.manual_seed(0)
    return adapt(llama(), r=4, target_modules="all-linear", task_type="CAUSAL_LM", **settings)


def sharded(net):
    for layer in net.base_model.model.model.layers:
        fully_shard(layer)
    return fully_shard(net)


def closure_of(net):
    return lambda: net(input_ids=ids(), labels=ids()).loss.backward()


def whole_tensors(net):
    return {name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in net.state_dict().items()}


def compute(rank, folder):
    plain = model()
    spread = sharded(copy.deepcopy(plain))
    initialize_subspaces_(spread, closure_of(spread))
    results = {"subspaces": whole_tensors(spread)}
    with torch.no_grad():
        disturb_(plain)
        spread = sharded(copy.deepcopy(plain))
        results["export"], results["ranks"] = to_lora(spread)[1], kept_ranks(spread, tolerance=0.1)
        main = {"state_dict": whole_tensors(spread), "is_main_process": rank == 0}
        spread.save_pretrained(f"{folder}/saved", **main, lora_at_root=True)
        results["logits"] = spread(input_ids=ids()).logits
        spread.merge_adapter()
        results["merged"] = spread(input_ids=ids()).logits
        results["weights"] = whole_tensors(spread)
        spread.unmerge_adapter()
        results["unmerged"] = spread(input_ids=ids()).logits
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    found = results_of_two(compute, folder)[0]
    return found | {"saved": load_file(folder / "saved" / "adapter_model.safetensors")}


def same(found, expected):
    assert found.keys() == expected.keys() and len(found) > 10
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=name)


def test_the_subspaces_are_written_to_every_process(results) -> None:
    plain = model()
    initialize_subspaces_(plain, closure_of(plain))
    untouched = model().state_dict()
    same(results["subspaces"], plain.state_dict())
    changed = [name for name, value in untouched.items() if not torch.equal(value, results["subspaces"][name])]
    assert any("deep_lora_U" in name for name in changed) and any("deep_lora_V" in name for name in changed)


def test_the_export_and_the_ranks_are_those_of_the_whole_model(results) -> None:
    plain = model()
    disturb_(plain)
    for name in ("export", "saved"):
        same(results[name], to_lora(plain)[1])
    assert results["ranks"] == kept_ranks(plain, tolerance=0.1)


def test_merging_keeps_the_outputs_and_unmerging_too(results) -> None:
    plain = model()
    disturb_(plain)
    with torch.no_grad():
        wanted, fresh = plain(input_ids=ids()).logits, model()(input_ids=ids()).logits
        plain.merge_adapter()
    for name in ("logits", "merged", "unmerged"):
        torch.testing.assert_close(results[name], wanted, rtol=0, atol=1e-5)
    assert (wanted - fresh).abs().max() > 1e-3
    same(results["weights"], plain.state_dict())
