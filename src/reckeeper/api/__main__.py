"""`python -m reckeeper.api`: the server as `up` runs it, under a supervisor."""

from reckeeper.api.process import main

if __name__ == "__main__":
    main(is_supervised=True)
