"""Killed in the middle of an epoch and resumed: temperatures, swaps and weights of a run that was not, bit for bit."""

from __future__ import annotations

import pytest
import torch

from tests.modality.resuming import KILLED_AT, SAVED_AT, STEPS, Killed, Record, make, outcome
from tests.modality.two_processes import resume
from tests.processes import results_of_two


def assert_continues(resumed, whole) -> None:
    assert set(whole["taus"]) == set(whole["swaps"]) == set(range(STEPS))
    assert set(resumed["taus"]) == set(resumed["swaps"]) == set(range(SAVED_AT, STEPS))
    for name in ("taus", "swaps"):
        assert resumed[name] == {step: value for step, value in whole[name].items() if step >= SAVED_AT}
    amounts = [amount for _, amount in resumed["swaps"].values()]
    assert any(amounts) and len(set(amounts)) > 1
    assert all(torch.equal(tensor, resumed["weights"][name]) for name, tensor in whole["weights"].items())


@pytest.mark.parametrize(
    ("per", "settings"),
    [("step", {}), ("sample", {}), ("step", {"gradient_accumulation_steps": 1, "dataloader_num_workers": 2})],
    ids=["step", "sample", "workers"],
)
def test_one_process_killed_and_resumed(per, settings, tmp_path) -> None:
    record = Record()
    run = make(tmp_path / "whole", record, per=per)
    run.train()
    whole = outcome(run, record)
    with pytest.raises(Killed):
        make(tmp_path / "killed", Record(KILLED_AT), per=per, **settings).train()
    record = Record()
    run = make(tmp_path / "killed", record, seed=1, per=per, **settings)
    run.train(resume_from_checkpoint=True)
    assert_continues(outcome(run, record), whole)


def test_another_seed_gives_another_sequence(tmp_path) -> None:
    swaps = []
    for seed in (11, 12):
        record = Record()
        run = make(tmp_path / str(seed), record)
        run.data_collator.rule = run.data_collator.rule._replace(seed=seed)
        run.train()
        swaps.append([amount > 0 for _, amount in record.swaps.values()])
    assert swaps[0] != swaps[1]


@pytest.mark.slow
def test_two_processes_killed_and_resumed(ranks, ranks_folder) -> None:
    runs = {"resumed": results_of_two(resume, ranks_folder)}
    runs["whole"] = [found["resume"] for found in ranks]
    for whole, resumed in zip(runs["whole"], runs["resumed"], strict=True):
        assert_continues(resumed, whole)
    first, second = ([amount > 0 for _, amount in run["swaps"].values()] for run in runs["whole"])
    assert first == second and runs["whole"][0]["swaps"] != runs["whole"][1]["swaps"]
    assert runs["whole"][0]["taus"] == runs["whole"][1]["taus"]
    mine, theirs = (run["weights"] for run in runs["whole"])
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
