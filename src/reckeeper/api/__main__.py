"""`python -m reckeeper.api`."""

from reckeeper.api.app import main

if __name__ == "__main__":
    main()
