"""`expertmesh bench`: put load on a running server and measure what its clients see."""

import argparse
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import cycle
from secrets import token_hex

from cluster.bench.arrivals import arrival_gaps
from cluster.bench.chart import check_chart, draw
from cluster.bench.driver import Driver, Limits, Run, Send
from cluster.bench.flags import add_load_flags, add_prompt_flags, add_result_flags, limits_of, synthetic_of
from cluster.bench.progress import shown
from cluster.bench.prompt_file import read_prompts
from cluster.bench.summary import Summary, summarize
from cluster.bench.text import progress_line, render
from cluster.bench.workload import Question
from cluster.cli.client.client_command import add_target, client_of, run_client
from cluster.cli.client.generate_command import Subparsers
from cluster.cli.failing import one_line
from router_service.client.client import Client
from router_service.protocol import inference_pb2 as pb

SECRET = ("token", "run")
MODEL_FIELDS = ("name", "family", "dtype", "total_parameters", "active_parameters")


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("bench", help="put load on a running server and measure latencies and throughput")
    add_target(parser)
    add_load_flags(parser)
    add_prompt_flags(parser)
    add_result_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return run_client(_bench(args), args.target)


async def _bench(args: argparse.Namespace) -> None:
    limits = limits_of(args)
    if args.chart:
        check_chart()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(args)) for _ in range(args.connections)]
        model = await clients[0].model()
        ask = _questions(args, model)
        salt = args.cache_salt if args.cache_salt is not None else token_hex(8)
        await _warm_up(args, limits, ask(), _sender(args, clients, f"{salt} warm-up"))
        driver = Driver(_sender(args, clients, salt), limits)
        try:
            async with shown(lambda: progress_line(driver.run, limits, time.perf_counter())):
                await _drive(args, driver, ask())
        finally:  # behind an interrupt, too: what was measured so far
            summary = _report(args, model, driver.run)
    if not summary.completed:
        raise ValueError(f"no request completed: {_first_failure(driver.run)}")


def _questions(args: argparse.Namespace, model: pb.ModelInfo) -> Callable[[], Iterator[Question]]:
    """What yields the questions, each time from the first one on.

    Raises:
        OSError, ValueError: the file of prompts is wrong, or random prompts do not fit into the model's context.
    """
    if args.prompts:
        read = read_prompts(args.prompts, args.output_tokens, args.seed)
        return lambda: cycle(read)
    synthetic = synthetic_of(args)
    synthetic.check(model)
    return lambda: synthetic.questions(model)


def _sender(args: argparse.Namespace, clients: list[Client], salt: str) -> Send:
    """What sends a question, by each client in turn. A salt of its own keeps a run from finding its prompts cached."""
    turns = cycle(clients)
    exact = args.ignore_eos or not args.prompts

    def send(question: Question) -> AsyncGenerator[pb.GenerateResponse, None]:
        return next(turns).generate(
            question.prompt,
            tokens=question.tokens,
            messages=question.messages,
            cache_salt=salt,
            timeout=args.timeout,
            max_tokens=question.output_tokens,
            temperature=args.temperature,
            ignore_eos=exact,
        )

    return send


async def _warm_up(args: argparse.Namespace, limits: Limits, questions: Iterator[Question], send: Send) -> None:
    """Send what is not counted, never more at a time than asked for."""
    if not args.warmup:
        return
    driver = Driver(send, Limits(args.warmup, None, limits.concurrency))
    await driver.closed_loop(questions)
    if not any(record.ok for record in driver.run.records):
        raise ValueError(f"no warm-up request completed: {_first_failure(driver.run)}")


async def _drive(args: argparse.Namespace, driver: Driver, questions: Iterator[Question]) -> None:
    if args.rate is None:
        await driver.closed_loop(questions)
    else:
        await driver.open_loop(questions, arrival_gaps(args.rate, args.burstiness, args.seed))


def _report(args: argparse.Namespace, model: pb.ModelInfo, run: Run) -> Summary:
    """Print the table and write the files."""
    bounds = dict(args.goodput)
    summary = summarize(run, bounds)
    print(render(summary, bounds), flush=True)
    if args.json:
        result = _result(args, model, summary) | {"requests": [record.as_dict(run.begun) for record in run.records]}
        args.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if args.chart and summary.completed:
        draw(run, f"{model.name} at {args.target}", args.chart)
    return summary


def _result(args: argparse.Namespace, model: pb.ModelInfo, summary: Summary) -> dict[str, object]:
    """Everything but the requests, without secrets."""
    given = {name: value for name, value in vars(args).items() if name not in SECRET}
    settings = {name: value if isinstance(value, int | float | None) else str(value) for name, value in given.items()}
    described = {name: getattr(model, name) for name in MODEL_FIELDS}
    return {"settings": settings, "model": described, **summary.as_dict()}


def _first_failure(run: Run) -> str:
    failed = next((record for record in run.records if not record.ok), None)
    if failed is None:
        return "none was sent"
    return one_line(f"{len(run.records)} failed, the first with {failed.status}: {failed.detail or 'no details'}")
