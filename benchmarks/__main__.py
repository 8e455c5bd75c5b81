"""Run all benchmarks; each prints one JSON object. Two hours; the last three need data sets."""

import json

from benchmarks import (
    compare_versions,
    factorise,
    first_run,
    gate,
    import_rows,
    list_models,
    promotion,
    quality,
    single_posts,
)

for benchmark in (
    import_rows,
    single_posts,
    list_models,
    first_run,
    compare_versions,
    promotion,
    factorise,
    gate,
    quality,
):
    print(json.dumps(benchmark.run()), flush=True)
