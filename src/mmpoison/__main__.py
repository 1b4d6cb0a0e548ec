"""Entry point of `python -m mmpoison` and `torchrun -m mmpoison`."""

from mmpoison.cli import main

if __name__ == "__main__":
    main()
