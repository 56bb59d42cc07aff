"""`python -m bench` measures everything that is kept."""

from bench.main import main

if __name__ == "__main__":
    main()
