"""Run all benchmarks; each prints one JSON object."""

import json

from benchmarks import first_run, import_rows, list_models, single_posts

for benchmark in (import_rows, single_posts, list_models, first_run):
    print(json.dumps(benchmark.run()), flush=True)
