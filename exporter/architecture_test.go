package main

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// internalPrefix begins the import paths of our own packages.
const internalPrefix = "fail2ban-loki-exporter/exporter/internal/"

// mayImport is the one way that imports run (docs/design/001-layout.md).
var mayImport = map[string][]string{
	"fail2ban":  nil,
	"correlate": {"fail2ban"},
	"offender":  nil,
	"loki":      nil,
	"config":    nil,
	"enrich":    nil, // addresses and files: no offenders, no log, no metrics
	"publish":   {"correlate", "offender", "loki", "fail2ban"},
	"pipeline":  {"correlate", "offender", "fail2ban"},
	"main":      {"config", "loki", "publish", "pipeline", "correlate", "offender", "fail2ban", "enrich"},
}

// pure packages know no clock, IO, goroutine, log or Prometheus: these imports
// and words must not stand in them. (io itself is interfaces: what is behind a
// reader or a writer comes from outside.)
var (
	pure          = []string{"fail2ban", "correlate", "offender"}
	impureImports = []string{"os", "net", "net/http", "log", "log/slog", "context", "sync"}
	impureWords   = regexp.MustCompile(`\btime\.(Now|Since|Until|Sleep|After|Tick|NewTimer|NewTicker)\b|^\s*go (func|\w+[.(])`)
)

// lokiImports stand in one file alone, so that what they link is one decision.
var lokiImports = regexp.MustCompile(`^github\.com/grafana/loki/`)

func TestImportsRunOneWay(t *testing.T) {
	var lokiFiles []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		pkg := "main"
		if dir := filepath.ToSlash(filepath.Dir(path)); dir != "." {
			pkg = strings.TrimPrefix(dir, "internal/")
		}
		allowed, known := mayImport[pkg]
		if !known {
			t.Errorf("%s: package %s is new: say in this test what it may not know", path, pkg)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			if own, ok := strings.CutPrefix(imported, internalPrefix); ok && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s", path, own)
			}
			if slices.Contains(pure, pkg) && (slices.Contains(impureImports, imported) || strings.Contains(imported, "prometheus")) {
				t.Errorf("%s imports %s: the core is pure", path, imported)
			}
			if pkg == "fail2ban" && strings.Contains(imported, ".") {
				t.Errorf("%s imports %s: the parser has the standard library alone", path, imported)
			}
			if lokiImports.MatchString(imported) {
				lokiFiles = append(lokiFiles, filepath.ToSlash(path))
			}
		}
		if slices.Contains(pure, pkg) {
			for line := range bytes.Lines(text) {
				if impureWords.Match(line) {
					t.Errorf("%s: %s: the core is pure", path, bytes.TrimSpace(line))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"internal/loki/push.go", "internal/loki/push.go"}; !slices.Equal(lokiFiles, want) {
		t.Errorf("Loki's packages are imported in %v, want one file: %v", lokiFiles, want)
	}
}

// apacheFolders are those that Loki's LICENSING.md puts under Apache-2.0.
var apacheFolders = regexp.MustCompile(`^github\.com/grafana/loki/(pkg/push|v3/(clients|production|tools|pkg/(framedstdcopy|ingester/wal|logproto|loghttp|logqlmodel|push|util)))(/|$)`)

// NOTICE names exactly the packages of Loki under AGPL-3.0 that the binary links.
func TestNoticeNamesWhatIsLinked(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	var linked []string
	for p := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(p, "github.com/grafana/loki/") && !apacheFolders.MatchString(p) {
			linked = append(linked, p)
		}
	}
	notice, err := os.ReadFile("../NOTICE")
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, m := range regexp.MustCompile(`(?m)^  (github\.com/grafana/loki/\S+)$`).FindAllStringSubmatch(string(notice), -1) {
		named = append(named, m[1])
	}
	slices.Sort(linked)
	slices.Sort(named)
	if !slices.Equal(linked, named) {
		t.Errorf("linked:\n%s\nnamed in NOTICE:\n%s", strings.Join(linked, "\n"), strings.Join(named, "\n"))
	}
}
