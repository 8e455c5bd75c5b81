"""The worker, at the path that the contract names; the program is `reckeeper.worker`."""

if __name__ == "__main__":
    # Not above: the process of each job reads this file again, and needs nothing of it.
    from reckeeper.worker.app import main

    main()
