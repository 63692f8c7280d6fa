"""What a million enrollments cost: arithmetic from what the warm enrollment was measured to take, and to call."""

import statistics
from typing import Any

from benchmarks.measure import Row, Verdict, number

NEXI_SECONDS = 0.3
DYNAMODB_SECONDS = 0.004
MEMORY_GB = 0.5
PROCESSORS = 512 / 1769
"""Of a processor that a function of this memory has."""
LOG_BYTES = 2000

PRICES = {
    "API Gateway, requests": 1.00e-6,
    "Lambda, requests": 0.20e-6,
    "Lambda, GB-seconds": 0.0000133334,
    "DynamoDB, read units": 0.125e-6,
    "DynamoDB, write units": 0.625e-6,
    "logs, bytes": 0.50e-9,
}
"""Dollars, AWS's list for us-east-1 and arm64, as docs/operations.md has them."""


def run(warm: dict[str, Any]) -> Row:
    """The row of the cost, out of the warm enrollment's as it was measured in the same run."""
    processor = statistics.median(each["cpu"] for each in warm["raw"]["at once"]["softpos"]) / 1000
    seconds = {
        "waiting for Nexi's PAR": NEXI_SECONDS,
        "waiting for DynamoDB, twice": 2 * DYNAMODB_SECONDS,
        f"our own {number(1000 * processor)} ms of a processor": processor / PROCESSORS,
    }
    price = MEMORY_GB * PRICES["Lambda, GB-seconds"]
    costs = {f"Lambda, {what}": spent * price for what, spent in seconds.items()} | {
        "Lambda, 1 request": PRICES["Lambda, requests"],
        "API Gateway, 1 request": PRICES["API Gateway, requests"],
        "DynamoDB, 1 read unit": PRICES["DynamoDB, read units"],
        "DynamoDB, 1 write unit": PRICES["DynamoDB, write units"],
        "logs, 2 KB": LOG_BYTES * PRICES["logs, bytes"],
    }
    total = sum(costs.values())
    samples = total + 2 * NEXI_SECONDS * price
    first = max(costs, key=lambda each: costs[each])
    return Row(
        "cost",
        "Cost per million enrollments",
        "Arithmetic: the processor time of the warm enrollment above, a 512 MB function's share of a processor "
        f"({number(PROCESSORS)}), Nexi answering in {1000 * NEXI_SECONDS:g} ms and DynamoDB in "
        f"{1000 * DYNAMODB_SECONDS:g}, list prices for us-east-1. This machine's processor stands in for Lambda's.",
        ["", "per million", "share"],
        [
            [what, f"${1e6 * cost:.2f}", f"{number(100 * cost / total)} %"]
            for what, cost in sorted(costs.items(), key=lambda item: -item[1])
        ]
        + [["**in all**", f"**${1e6 * total:.2f}**", ""], ["with three calls to Nexi", f"${1e6 * samples:.2f}", ""]],
        [Verdict("against three calls to Nexi, one after the other", total / samples)],
        [f"The largest part, {number(100 * costs[first] / total)} %, goes into: {first}."],
        raw={"costs": costs, "seconds": seconds},
    )
