"""Asking the broker.  `requests` says what each method sends and what its answer means; the fronts do the I/O:

    nsbroker.client.blocking    for threads and scripts (`nsbroker.connect`)
    nsbroker.client.trio        for trio
    nsbroker.client.asyncio     for asyncio

Neither needs any privilege.  Only the trio front imports trio, only the asyncio front asyncio.
"""
