"""StrokeCore inside Orthanc: events in, a scoring process per acquisition, results stored.

Only ``plugin.py`` imports the ``orthanc`` module, so that everything else runs in ordinary tests. Nothing
here computes on pixels: that happens in another process, whose death cannot hurt the server.

The package itself is Apache-2.0 like the rest. Orthanc's Python plugin is AGPL-3.0: whoever conveys this
code together with it conveys the whole under the AGPL's terms.
"""
