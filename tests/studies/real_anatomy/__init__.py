"""How good the node is on heads made from real people, and on a real head with inserted infarcts.

    python -m tests.studies.real_anatomy OUT --persons 07,08 [--seeds 11000] [--only infarct,normal,blood,real,time]

OUT keeps what the node said of every case (result.json, truth, summary picture), so that an interrupted run goes on where
it stopped; the page is written when every case of the parts asked for is there. Cases are simulated into a
scratch folder, scored by the command ``strokecore score`` in processes of their own, and their images deleted.
"""
