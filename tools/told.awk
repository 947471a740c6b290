# Reads `go test -v ./...` and prints what `go test ./...` would, and besides which tests were skipped and why:
# plain `go test` says nothing of those. What a package printed is shown whole when it failed.

/^(ok|FAIL|\?)[ ]*\t/ {
	if ($1 == "FAIL") for (i = 1; i <= n; i++) print lines[i]
	for (i = 1; i <= m; i++) print skipped[i]
	n = m = 0
	delete why
	print
	fflush()
	next
}

/^=== (RUN|CONT|NAME)/ { test = $3 }

# A line of a test's log; its last one before a skip says why.
/^[ ]*[^ ]+\.go:[0-9]+: / {
	text = $0
	sub(/^[ ]*[^ ]+\.go:[0-9]+: /, "", text)
	why[test] = text
}

/^[ ]*--- SKIP: / { skipped[++m] = "    skipped " $3 ": " why[$3] }

{ lines[++n] = $0 }

END { for (i = 1; i <= n; i++) print lines[i] }
