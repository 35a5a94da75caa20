"""OpenLineage: which run of which job read and wrote which datasets."""
