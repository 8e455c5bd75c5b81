"""Run all benchmarks; each prints one JSON object. Takes an hour: the last two need data sets."""

import json

from benchmarks import factorise, first_run, import_rows, list_models, quality, single_posts

for benchmark in (import_rows, single_posts, list_models, first_run, factorise, quality):
    print(json.dumps(benchmark.run()), flush=True)
