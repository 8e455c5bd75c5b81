"""The worker, at the path that the contract names; the program is `reckeeper.worker`."""

if __name__ == "__main__":
    from reckeeper.worker.app import main

    main()
