"""The clients of the broker.  None of them needs any privilege.

    nsbroker.client.blocking    for scripts and threads (`nsbroker.connect`)
    nsbroker.client.trio        for trio
    nsbroker.client.asyncio     for asyncio

The clients do the I/O.  They share `requests`, which builds the call of each method and reads its replies, and `transport`, which
knows the calls that are under way on a connection.  Only the trio client imports trio, and only the asyncio client imports asyncio.
"""
