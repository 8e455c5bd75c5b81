"""The public API, at the path that the contract names; the program is `reckeeper.api`."""

from reckeeper.api.process import main

if __name__ == "__main__":
    main()
