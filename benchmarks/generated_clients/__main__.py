"""``python -m benchmarks.generated_clients [--tools FOLDER]``."""

import argparse
import json
from pathlib import Path

from benchmarks import generated_clients

parser = argparse.ArgumentParser(description=generated_clients.__doc__)
parser.add_argument("--tools", type=Path, help="keeps the generators for the next run")
tools = parser.parse_args().tools
print(json.dumps(generated_clients.run(None if tools is None else tools.resolve())))
