"""Many runs: what each is, where it runs, and how far all of them are."""
