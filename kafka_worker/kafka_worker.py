"""The worker, at the path that the contract names; the program is `reckeeper.worker`."""

from reckeeper.worker.app import main

if __name__ == "__main__":
    main()
