"""The only importers of Ray: cluster, training (Train), batch (Data), jobs (Jobs)."""
