"""Jobs on several hosts: Dask carries tasks, results and signs of life; what runs where the lab decides.

`executor` decides, `mailbox` is Dask as it is used here, `certificates` and `artifacts` are what hosts trust and fetch;
`place` and `worker` run on the hosts, and `launch` starts them there.
"""
