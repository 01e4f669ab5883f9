"""The worker processes: one for each library and environment, started when first needed, working one at a time."""

from __future__ import annotations

import multiprocessing
from typing import Any

from bench import threads
from bench.providers import PROVIDERS
from bench.worker import Failed, serve

PATIENCE = 600  # seconds; compiling takes less


class Worker:
    def __init__(self, library: str, cpus: list[int], variables: dict[str, str]):
        context = multiprocessing.get_context("spawn")  # a fork would bring the parent's state along
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, library, cpus), daemon=True)
        with threads.environment(threads.settings(len(cpus)) | variables):
            self.process.start()
        other.close()

    def ask(self, order: str, *arguments: Any) -> Any:
        """Its answer; why there is none, if it died or took too long."""
        try:
            self.pipe.send((order, arguments))
            if not self.pipe.poll(PATIENCE):
                self.end()
                return Failed(f"took more than {PATIENCE} s")
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return Failed(f"its process ended with code {self.process.exitcode}")

    def end(self) -> None:
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    @property
    def alive(self) -> bool:
        return self.process.is_alive() and not self.pipe.closed


class Crew:
    def __init__(self, cpus: list[int]):
        self.cpus = cpus
        self.workers: dict[tuple, Worker] = {}

    def of(self, name: str, environment: tuple = ()) -> Worker:
        """The process that runs a contestant; a new one if it died."""
        library = PROVIDERS[name].library
        key = (library, environment)
        if key not in self.workers or not self.workers[key].alive:
            self.workers[key] = Worker(library, self.cpus, dict(environment))
        return self.workers[key]

    def drop(self) -> None:
        for worker in self.workers.values():
            if worker.alive:
                worker.ask("drop")

    def threads(self) -> dict[str, int]:
        """What each library that has worked says it uses."""
        found = {key[0]: worker.ask("threads") for key, worker in self.workers.items() if worker.alive}
        return {library: number for library, number in found.items() if isinstance(number, int)}

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.end()
