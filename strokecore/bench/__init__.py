"""How fast every engine runs a model package here, and what each step of the pipeline takes (docs/bench.md).

``benchmark.run_bench`` measures and returns the record, ``record.write_record`` keeps it, ``table.print_bench``
shows it. Nothing is imported here: an engine's memory is measured in a process that holds little else.
"""
