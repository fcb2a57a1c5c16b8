# Keeps of a configuration what Kconfig knows and whose `depends on` terms (ANDed names only) are set; the last word wins.
FNR == 1 { pass++ }
pass == 1 && $1 == "source" { file = $2; gsub(/"/, "", file); dir = FILENAME; sub(/Kconfig$/, "", dir); kconfig(dir file) }
pass == 1 { definition($0) }
pass == 2 && /^CONFIG_/ { name = $0; sub(/=.*/, "", name); sub(/^CONFIG_/, "", name); value[name] = substr($0, length(name) + 9) }
pass == 2 && /^# CONFIG_.* is not set/ { name = $2; sub(/^CONFIG_/, "", name); value[name] = "n" }
function kconfig(path,   line) { while ((getline line < path) > 0) definition(line) }
function definition(line,   words) {
	split(line, words, " ")
	if (words[1] == "config" && line !~ /^[ \t]/) { symbol = words[2]; known[++count] = symbol; needs[symbol] = "" }
	if (words[1] == "bool" && !words[2]) hidden[symbol] = 1
	if (words[1] == "depends") { sub(/.*depends on /, "", line); sub(/\\$/, "", line); needs[symbol] = line }
}
END {
	for (i = 1; i <= count; i++) {
		symbol = known[i]
		ok = value[symbol] != "" && value[symbol] != "n" && !hidden[symbol]
		n = split(needs[symbol], terms, /[ \t]*&&[ \t]*/)
		for (t = 1; t <= n; t++) if (terms[t] != "" && !(terms[t] in out)) ok = 0
		if (ok) { out[symbol] = 1; print "CONFIG_" symbol "=" value[symbol] } else print "# CONFIG_" symbol " is not set"
	}
}
