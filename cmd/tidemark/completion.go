package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" help:"bash, zsh or fish." enum:"bash,zsh,fish"`
}

// Run prints the script. It is made from the grammar itself, so it knows every
// command and flag of this binary.
func (c *completionCmd) Run(a *app) error {
	script := bashCompletion(a.model)
	switch c.Shell {
	case "zsh":
		// zsh runs bash completions; one script less to keep right.
		script = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + script
	case "fish":
		script = fishCompletion(a.model)
	}
	_, err := fmt.Fprint(a.out, script)
	return err
}

// completions calls visit for every command with its path below the binary's
// name ("order place") and the words that may follow it.
func completions(model *kong.Application, visit func(path string, words []string)) {
	var walk func(node *kong.Node, path []string, flags []string)
	walk = func(node *kong.Node, path, flags []string) {
		for _, f := range node.Flags {
			if !f.Hidden {
				flags = append(flags, "--"+f.Name)
			}
		}
		var words []string
		for _, child := range node.Children {
			if child.Type == kong.CommandNode && !child.Hidden {
				words = append(words, child.Name)
				walk(child, append(slices.Clone(path), child.Name), slices.Clone(flags))
			}
		}
		for _, p := range node.Positional {
			for _, w := range p.EnumSlice() {
				if w != "" {
					words = append(words, w)
				}
			}
		}
		visit(strings.Join(path, " "), append(words, flags...))
	}
	walk(model.Node, nil, nil)
}

func bashCompletion(model *kong.Application) string {
	var b strings.Builder
	b.WriteString(`# tidemark completion: source this file, or write it to your completion directory
_tidemark() {
  local cur="${COMP_WORDS[COMP_CWORD]}" path="" word words
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) ;; *) _tidemark_is_command "$path$word" && path="$path$word " ;; esac
  done
  words="$(_tidemark_words "${path% }")"
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [ ${#COMPREPLY[@]} -eq 0 ]; then COMPREPLY=($(compgen -f -- "$cur")); fi
}
`)
	var paths, table strings.Builder
	completions(model, func(path string, words []string) {
		if path != "" {
			fmt.Fprintf(&paths, "    %q) return 0 ;;\n", path)
		}
		fmt.Fprintf(&table, "    %q) echo %q ;;\n", path, strings.Join(words, " "))
	})
	fmt.Fprintf(&b, "_tidemark_is_command() {\n  case \"$1\" in\n%s    *) return 1 ;;\n  esac\n}\n", paths.String())
	fmt.Fprintf(&b, "_tidemark_words() {\n  case \"$1\" in\n%s  esac\n}\ncomplete -F _tidemark tidemark\n", table.String())
	return b.String()
}

func fishCompletion(model *kong.Application) string {
	var b strings.Builder
	b.WriteString("# tidemark completion: save as ~/.config/fish/completions/tidemark.fish\n")
	b.WriteString(`function __tidemark_at
  set -l words (commandline -opc)[2..]
  set -l commands
  for w in $words
    string match -q -- '-*' $w; or set -a commands $w
  end
  set -l at (string split ' ' -- $argv[1])
  test "$argv[1]" = ""; and test (count $commands) -eq 0; and return 0
  test (count $commands) -ge (count $at); and test "$commands[1..(count $at)]" = "$argv[1]"; and test "$argv[2]" = leaf -o (count $commands) -eq (count $at)
end
`)
	completions(model, func(path string, words []string) {
		for _, w := range words {
			if flag, ok := strings.CutPrefix(w, "--"); ok {
				fmt.Fprintf(&b, "complete -c tidemark -n '__tidemark_at %q leaf' -l %s\n", path, flag)
			} else {
				fmt.Fprintf(&b, "complete -c tidemark -f -n '__tidemark_at %q' -a %s\n", path, w)
			}
		}
	})
	return b.String()
}
