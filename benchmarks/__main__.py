"""Run all benchmarks; each prints one JSON object. Three hours; the last three need data sets."""

import json

from benchmarks import (
    collapse,
    command_line,
    compare_versions,
    evaluate,
    factorise,
    faults,
    first_run,
    gate,
    generated_clients,
    import_rows,
    ingest,
    list_models,
    load_model,
    promotion,
    quality,
    single_posts,
    small_client,
    training_read,
)

for benchmark in (
    command_line,
    small_client,
    import_rows,
    single_posts,
    ingest,
    training_read,
    faults,
    list_models,
    first_run,
    compare_versions,
    promotion,
    load_model,
    factorise,
    collapse,
    evaluate,
    gate,
    generated_clients,
    quality,
):
    print(json.dumps(benchmark.run()), flush=True)
