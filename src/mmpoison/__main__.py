"""`python -m mmpoison`, which is what `torchrun -m mmpoison` starts."""

from mmpoison.cli import main

if __name__ == "__main__":
    main()
