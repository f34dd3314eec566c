"""`python -m lora_ns`."""

from __future__ import annotations

from lora_ns.safety.interpreter import forget_working_folder

if __name__ == "__main__":
    forget_working_folder()

    from lora_ns.cli.app import main

    main()
