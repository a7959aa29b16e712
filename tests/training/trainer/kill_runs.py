"""Short training runs that are killed at random moments and repeated, here and by hand:

python -m tests.training.trainer.kill_runs --kills 30 --processes 1
python -m tests.training.trainer.kill_runs --kills 30 --processes 2
python -m tests.training.trainer.kill_runs --kills 30 --command contrastive    (or classify, or complete)
python -m tests.training.trainer.kill_runs --kills 3 --processes 2 --command tools    (or packing, or dpo)
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.processes import forks, free_port, take_rank
from tests.training import chats, tiny
from training.cli import main
from training.trainer import checkpoints

COMMANDS = {
    "finetune": {"model": "bert", "dataset": "reviews.csv", "adapter_dropout": 0.1,
                 "lr_scheduler_type": "constant"},
    "contrastive": {"model": "clip", "dataset": "pictures-0.csv", "schedule": "cosine", "swap": "soft",
                    "swap_probability": 0.5},
    "classify": {"model": "vit", "dataset": "classes", "adapter_dropout": 0.1},
    "tools": {"task": "chat", "model": "chat", "dataset": "tools.jsonl", "adapter_dropout": 0.1},
    "packing": {"task": "chat", "model": "chat", "dataset": "chats.jsonl", "packing": "true", "max_length": 64},
    "dpo": {"task": "dpo", "model": "chat", "dataset": "preferences.jsonl"},
    "complete": {"data": "ratings.csv", "rank": 6, "max_epochs": 400, "patience": 400},
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What was on the disk after a kill, and how far the resumed run's weights are from the uninterrupted one's."""

    after_seconds: float
    checkpoints: list[str]
    damaged: list[str]
    difference: float


def save_chats(folder: Path) -> None:
    """Write a model that can chat, and conversations with tools, without, and with two answers."""
    chats.save_chat_model(folder / "chat", chats.WITH_TOOLS)
    rows = [{"messages": chats.turns(seed, 2)} for seed in range(40)]
    chats.save_rows(folder / "chats.jsonl", rows)
    chats.save_rows(folder / "tools.jsonl", [chats.tool_row(seed) for seed in range(30)])
    chats.save_rows(folder / "preferences.jsonl", chats.rows("preferences", 30))


def save_classes(folder: Path) -> None:
    """Write pictures in a folder for each class."""
    for number in range(30):
        place = folder / "classes" / ("dark" if number % 2 else "light")
        place.mkdir(parents=True, exist_ok=True)
        shade = 5 * number + (0 if number % 2 else 100)
        Image.new("RGB", (20, 20), (shade, 255 - shade, shade)).save(place / f"{number}.png")


def save_ratings(folder: Path) -> None:
    """Write half of the entries of a matrix."""
    generator = random.Random(0)
    rows = [
        f"{i},{j},{i * j % 7 + generator.random()}" for i in range(60) for j in range(50) if generator.random() < 0.5
    ]
    (folder / "ratings.csv").write_text("row,column,value\n" + "\n".join(rows) + "\n", encoding="utf-8")


def words_of(command: str, folder: Path, output: Path, steps: int) -> list[str]:
    paths = ("model", "dataset", "data")
    own = {name: folder / value if name in paths else value for name, value in COMMANDS[command].items()}
    trained = {
        "max_steps": steps,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 3,
        "eval_strategy": "steps", "eval_steps": 4, "logging_steps": 1, "disable_tqdm": "true", "use_cpu": "true",
        "rank": 2,
    }  # fmt: skip
    options = own | {"output_dir": output} | (trained if "model" in own else {})
    return [
        "finetune" if "task" in own else command,
        *(str(word) for name, value in options.items() for word in (f"--{name}", value)),
    ]


def work(words: list[str], cache: str, rank: int, processes: int, port: int) -> None:
    """One process of a run, in a fresh fork."""
    torch.set_num_threads(1)
    log = os.open(f"{cache}/log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    datasets.config.HF_DATASETS_CACHE = Path(cache)
    if processes > 1:
        take_rank(rank, processes, port)
    status = main(words)
    sys.stdout.flush()
    os._exit(status)  # gloo's threads need not be waited for


class Runs:
    """Starts and kills runs; the interpreter and its imports are made once and forked."""

    def __init__(self, folder: Path, processes: int = 1, command: str = "finetune", steps: int = 12) -> None:
        self.folder, self.processes, self.command, self.steps = folder, processes, command, steps
        self.context = forks()
        tiny.save_bert(folder / "bert")
        tiny.save_csv(folder / "reviews.csv", rows=30)
        tiny.save_clip(folder / "clip")
        tiny.save_pictures(folder, rows=30)
        tiny.save_vit(folder / "vit")
        save_classes(folder)
        save_ratings(folder)
        if command in ("tools", "packing", "dpo"):
            save_chats(folder)

    def start(self, output: Path) -> list[multiprocessing.process.BaseProcess]:
        port = free_port()
        words = words_of(self.command, self.folder, output, self.steps)
        cache = str(self.folder)
        started = []
        for rank in range(self.processes):
            process = self.context.Process(target=work, args=(words, cache, rank, self.processes, port))
            process.start()
            started.append(process)
        return started

    def finish(self, output: Path) -> float:
        """Runs to the end; the seconds it took."""
        begin = time.perf_counter()
        for process in self.start(output):
            process.join(120)
            log = "\n".join((self.folder / f"log-{rank}.txt").read_text() for rank in range(self.processes))
            assert process.exitcode == 0, log[-3000:]
        return time.perf_counter() - begin

    def kill(self, output: Path, seconds: float) -> None:
        """Starts a run, and sends SIGKILL to all of its processes after so many seconds."""
        started = self.start(output)
        time.sleep(seconds)
        for process in started:
            process.kill()  # SIGKILL; nothing happens if it has ended
        for process in started:
            process.join()

    def outcome(self, expected: dict[str, torch.Tensor], output: Path, seconds: float) -> Outcome:
        """Kills a run, looks at what is there, repeats the command, and compares the weights."""
        self.kill(output, seconds)
        found = checkpoints.all_checkpoints(output)
        damaged = [f"{path.name}: {wrong}" for path in found if (wrong := checkpoints.damage(path))]
        self.finish(output)
        weights = weights_of(output)
        assert weights.keys() == expected.keys()
        difference = max(float((weights[name] - tensor).double().abs().max()) for name, tensor in expected.items())
        return Outcome(seconds, [path.name for path in found], damaged, difference)


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    files = [*sorted((output / "adapter").rglob("*.safetensors")), *output.glob("model.safetensors")]
    places = {path.parent.relative_to(output): load_file(path) for path in files}
    return {f"{place}/{name}": tensor for place, held in places.items() for name, tensor in held.items()}


def run_all(folder: Path, kills: int, processes: int, seed: int, command: str = "finetune") -> list[Outcome]:
    """So many kills at random moments of a run."""
    runs = Runs(folder, processes, command)
    runs.finish(folder / "warm")  # the first run also starts the fork server and fills the cache
    seconds = runs.finish(folder / "whole")
    print(f"the uninterrupted run took {seconds:.1f} s", flush=True)
    expected = weights_of(folder / "whole")
    moments = [random.Random(seed + number).uniform(0, seconds) for number in range(kills)]
    outcomes = []
    for moment in moments:
        outcomes.append(runs.outcome(expected, folder / "killed", moment))
        shutil.rmtree(folder / "killed")
    return outcomes


def report() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--command", choices=list(COMMANDS), default="finetune")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run_all(Path(folder), arguments.kills, arguments.processes, arguments.seed, arguments.command)
    for one in outcomes:
        print(one)
    largest = max(one.difference for one in outcomes)
    damaged = sum(len(one.damaged) for one in outcomes)
    seen = sum(bool(one.checkpoints) for one in outcomes)
    print(
        f"{len(outcomes)} kills at {arguments.processes} process(es): {seen} with a checkpoint on the disk, {damaged} "
        f"damaged checkpoints, largest difference of a final weight {largest:.1e}"
    )


if __name__ == "__main__":
    from tests.training.trainer import kill_runs  # under its own name, which the fork server has imported

    kill_runs.report()
