"""`python -m reckeeper.api`."""

from reckeeper.api.process import main

if __name__ == "__main__":
    main()
