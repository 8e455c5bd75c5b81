"""`python -m reckeeper.worker`."""

from reckeeper.worker.app import main

if __name__ == "__main__":
    main()
