"""What agents may use besides models: LangChain tools, each in a file of its own."""
