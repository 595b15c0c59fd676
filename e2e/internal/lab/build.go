// Package lab is the laboratory of the end-to-end tests and of the demo: it
// builds and runs the real servers, holds the recordings of real fail2ban
// servers, pushes them into Loki and reads Loki and Prometheus back. It knows
// the exporter only as a binary.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// rootModule is the first line of the repository's own go.mod.
const rootModule = "module fail2ban-loki-exporter"

// target says how one binary is built.
type target struct {
	dir string   // module, below the repository
	pkg string   // main package
	out string   // binary, below the repository
	arg []string // further build flags
}

// noDiscovery leaves out Prometheus' service discovery: of no use here, and it
// needs a module that not every module proxy serves.
var noDiscovery = []string{"-tags", "remove_all_sd,netgo"}

var targets = map[string]target{
	"loki":       {dir: "e2e/servers/loki", pkg: "github.com/grafana/loki/v3/cmd/loki", out: "bin/servers/loki"},
	"logcli":     {dir: "e2e/servers/loki", pkg: "github.com/grafana/loki/v3/cmd/logcli", out: "bin/servers/logcli"},
	"prometheus": {dir: "e2e/servers/prometheus", pkg: "github.com/prometheus/prometheus/cmd/prometheus", out: "bin/servers/prometheus", arg: noDiscovery},
	"promtool":   {dir: "e2e/servers/prometheus", pkg: "github.com/prometheus/prometheus/cmd/promtool", out: "bin/servers/promtool", arg: noDiscovery},
	"exporter":   {dir: ".", pkg: "./exporter", out: "bin/fail2ban-loki-exporter"},
}

// Root returns the repository's folder: the nearest one upwards from the
// working directory with the project's own go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && hasLine(mod, rootModule) {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("lab: run this inside the repository: no go.mod of fail2ban-loki-exporter here or above")
		}
		dir = up
	}
}

func hasLine(text []byte, want string) bool {
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == want {
			return true
		}
	}
	return false
}

// Build builds one of loki, logcli, prometheus, promtool and exporter from its pinned
// module and returns the binary's path. Go's build cache decides what there is
// to do: nothing, mostly. The first build of a server costs minutes; progress,
// unless nil, is told so when it takes long.
func Build(ctx context.Context, name string, progress io.Writer) (string, error) {
	t, ok := targets[name]
	if !ok {
		return "", fmt.Errorf("lab: no target %q to build", name)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	out := filepath.Join(root, t.out)
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(root, "bin", ".build.lock"))
	if err != nil {
		return "", fmt.Errorf("lab: %w", err)
	}
	defer unlock()

	if progress != nil {
		defer tell(progress, name)()
	}
	args := append([]string{"build"}, t.arg...)
	args = append(args, "-o", out, t.pkg)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(root, t.dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("lab: building %s: %w\n%s", name, err, tail(log.String()))
	}
	return out, nil
}

// Exporter returns the path of the binary under test: $EXPORTER, or the one
// built from the repository.
func Exporter(ctx context.Context, progress io.Writer) (string, error) {
	if path := os.Getenv("EXPORTER"); path != "" {
		return filepath.Abs(path)
	}
	return Build(ctx, "exporter", progress)
}

// tell says on w, after a while and then now and again, that the build of name
// is under way. The function it returns ends that.
func tell(w io.Writer, name string) func() {
	began, end, ended := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		wait := time.NewTimer(10 * time.Second)
		defer wait.Stop()
		for told := false; ; told = true {
			select {
			case <-end:
				if told {
					fmt.Fprintf(w, "built %s in %s\n", name, time.Since(began).Round(time.Second))
				}
				return
			case <-wait.C:
			}
			if told {
				fmt.Fprintf(w, "still building %s (%s)\n", name, time.Since(began).Round(time.Second))
			} else {
				fmt.Fprintf(w, "building %s from source: minutes the first time, seconds later\n", name)
			}
			wait.Reset(30 * time.Second)
		}
	}()
	return func() { close(end); <-ended }
}

// lock makes builds of several processes wait for each other.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// tail returns the last lines of a log.
func tail(log string) string {
	lines := strings.Split(strings.TrimRight(log, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
