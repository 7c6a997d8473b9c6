"""The processes that prepare photos."""

import sys

from loupe.data import tasks


def test_where_imports_look_stays_as_it_is_while_a_cluster_ends():
    with tasks.client(None):
        searched, before = sys.path, list(sys.path)
    assert searched == before, "an import in another thread could miss a package"
    assert sys.path is searched
