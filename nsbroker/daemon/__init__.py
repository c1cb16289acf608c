"""The broker.

How it is laid out.  Each floor imports only from those above it in this list:

    pace            much work on a thread, beside the event loop
    histogram       how long calls took
    ownership       whether anybody but trusted users could change a file or a folder
    systemd/        the service manager (readiness, the fd store) and the journal
    configuration/  the files with rules and settings
    limits/         what one user may use: connections, event loop time, threads, records, new namespaces and interfaces
    peer            who is at the other end of a connection, as the kernel tells
    record_sink     where audit records are written
    record_queue    the records that wait for the journal, by user
    audit           recording every decision
    engines/        container engines, a file each, and the registry that asks them
    policy/         the rules, compiled, and what they grant a peer
    targets/        from a written target to a pinned process or namespace
    context         what all methods work with
    discovery/      what is on the host, and what of it a peer may see
    methods/        the methods of the interface, a file a family, and the steps that they share
    dispatcher      from a call to its method, and back once the record is written
    listener        the socket that the broker listens on
    outbox          sending replies, and the time that a peer has to read them
    server          connections: accepting them, receiving calls, answering them
    main            the daemon as a whole: start, signals, reload, end
"""
