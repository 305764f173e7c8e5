package manual

import (
	"fmt"
	"regexp"
	"strings"
)

// description writes a text that is laid out as doc.go says.
func description(w *strings.Builder, text string) {
	for i, block := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		lines := strings.Split(block, "\n")
		if i > 0 && indent(lines[0]) == 0 {
			fmt.Fprintln(w, ".PP")
		}
		for len(lines) > 0 {
			n := same(lines)
			switch indent(lines[0]) {
			case 0:
				fill(w, strings.Join(lines[:n], " "))
			case 2, 3:
				list(w, lines[:n])
			default:
				example(w, lines[:n])
			}
			lines = lines[n:]
		}
	}
}

// same returns how many of the lines are of the kind of the first.
func same(lines []string) int {
	kind := indent(lines[0])
	for i, line := range lines {
		n := indent(line)
		if kind == 0 && n > 0 || kind > 0 && n == 0 {
			return i
		}
	}
	return len(lines)
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// list writes the entries of a list, the first of which says how far each is indented.
func list(w *strings.Builder, lines []string) {
	begins := indent(lines[0])
	for len(lines) > 0 {
		n := 1
		for n < len(lines) && indent(lines[n]) > begins {
			n++
		}
		term, means, _ := strings.Cut(strings.TrimSpace(lines[0]), "  ")
		entry(w, "\\fB"+literal(term)+"\\fP", means+" "+strings.Join(lines[1:n], " "))
		lines = lines[n:]
	}
}

// entry writes a term and what it means.
func entry(w *strings.Builder, term, means string) {
	fmt.Fprintf(w, ".TP\n%s\n", term)
	fill(w, means)
}

func example(w *strings.Builder, lines []string) {
	fmt.Fprintln(w, ".RS 4\n.nf")
	for _, line := range lines {
		fmt.Fprintln(w, guarded(literal(strings.TrimSpace(line))))
	}
	fmt.Fprintln(w, ".fi\n.RE")
}

// fill writes text whose lines are of no account, in lines that are short enough to read.
func fill(w *strings.Builder, text string) {
	for _, line := range wrap(text, width-8) {
		fmt.Fprintln(w, guarded(running(line)))
	}
}

// toType are words that people copy: flags, paths, and commands. Everywhere else a hyphen is one,
// and the pages' reader may print another character for it.
var toType = regexp.MustCompile(`^\W*-|/|ublk-remap|\.(toml|conf|service)\b`)

// running is text with hyphens in its words.
func running(text string) string {
	words := strings.Split(text, " ")
	for i, word := range words {
		if toType.MatchString(word) {
			words[i] = literal(word)
		} else {
			words[i] = escaped(word)
		}
	}
	return strings.Join(words, " ")
}

// literal is text that people copy.
func literal(text string) string { return copied.Replace(escaped(text)) }

var copied = strings.NewReplacer("-", `\-`, "'", `\(aq`)

// escaped is text without what roff takes for something else, in ASCII.
func escaped(text string) string {
	var b strings.Builder
	for _, r := range special.Replace(text) {
		if r > '~' {
			fmt.Fprintf(&b, `\[u%04X]`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

var special = strings.NewReplacer(`\`, `\e`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`, "…", "...")

// guarded is a line that begins with no request.
func guarded(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}
