"""The cost of many workers.

    server         overhead of an outer step against the number of workers and the size of their updates
    reports        processor time of the driver for each report, beside another commit, with and without leaders
    scale          a model of synchronous training (model/), calibrated and checked here, up to a thousand workers
    workers        tasks per second of one process, of one Ray worker and of two
    stragglers     synchronous steps with one slow worker
    asynchronous   synchronous and asynchronous training, with and without a slow worker

common/ has programs without computation, steps of a run, and processes with a share of a core.
"""
