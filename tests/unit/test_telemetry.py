"""Logs are one JSON object a line; metrics are Prometheus text."""

import json
import subprocess
import sys

from reckeeper import telemetry

LOGS = """
import logging
import sys
from reckeeper.telemetry import configure_logging, get_logger

configure_logging("worker", stream=sys.stdout)
log = get_logger("shop")
log.info("job_started", job_id=3, trigger="manual")
logging.getLogger("some.library").warning("careful with %s", "it")
logging.getLogger("httpx").info("too much")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken", job_id=4)
"""


def test_log_lines_are_json_with_the_process():
    run = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    started, careful, broken = map(json.loads, run.stdout.splitlines())
    assert {line["process"] for line in (started, careful, broken)} == {"worker"}
    assert (started["event"], started["job_id"], started["trigger"]) == ("job_started", 3, "manual")
    assert (started["level"], started["logger"]) == ("info", "shop")
    assert started["timestamp"].endswith("Z")
    assert (careful["event"], careful["level"]) == ("careful with it", "warning")
    assert careful["logger"] == "some.library"
    assert (broken["event"], broken["level"], broken["job_id"]) == ("broken", "error", 4)
    assert "ZeroDivisionError: division by zero" in broken["exception"]


def test_a_terminal_shows_a_traceback_without_what_variables_hold():
    script = LOGS.replace("stream=sys.stdout", "stream=Terminal()").replace(
        "configure_logging(",
        "class Terminal:\n    def isatty(self): return True\n    write = sys.stdout.write\n"
        "    flush = sys.stdout.flush\nsecret = 'pa55word'\nconfigure_logging(",
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "job_started" in run.stdout
    assert "ZeroDivisionError: division by zero" in run.stdout
    assert "pa55word" not in run.stdout


def test_metrics_are_prometheus_text():
    telemetry.SERVED_VERSION.set(17)
    text = telemetry.render_metrics().decode()
    assert "reckeeper_served_version 17.0\n" in text
    assert telemetry.METRICS_CONTENT_TYPE.startswith("text/plain")
    telemetry.SERVED_VERSION.set(0)


PEAK = """
import subprocess, sys
import numpy as np
from reckeeper.telemetry import peak_memory_bytes

if sys.argv[1:]:
    before = peak_memory_bytes()
    np.ones(4_000_000)
    print(before, peak_memory_bytes())
else:
    held = np.ones(40_000_000)
    subprocess.run([sys.executable, *sys.orig_argv[1:], "child"], check=True)
"""


def test_peak_memory_is_of_this_process_and_not_of_the_one_that_started_it():
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    before, after = map(int, run.stdout.split())
    assert before < 300_000_000
    assert 20_000_000 < after - before < 100_000_000
