"""How fast every engine runs a model package here, and what each step of the pipeline takes (docs/bench.md).

``benchmark.run_benchmark`` measures, ``table.print_benchmark`` shows it.
"""
