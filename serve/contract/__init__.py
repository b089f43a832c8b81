"""What other processes may rely on. Standard library only, so that every process can import it for nothing."""
