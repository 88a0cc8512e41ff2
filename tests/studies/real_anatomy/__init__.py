"""How good the node is on heads made from real people, and on a real head with inserted infarcts.

    python -m tests.studies.real_anatomy OUT --persons 07,08 [--seeds 11000] [--only infarct,blood]

OUT keeps what the node said of every case (result.json, truth, the summary picture), so that an interrupted
run goes on where it stopped. Cases are simulated into a scratch folder, scored by ``strokecore score`` in
processes of their own, and their images deleted. The last step makes one page of results with its pictures.
"""
