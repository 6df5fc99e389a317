"""Facts and rules that hold without any framework."""
