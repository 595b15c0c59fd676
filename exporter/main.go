// fail2ban-loki-exporter pulls fail2ban's log streams out of Loki, works out
// what really happened (above all what each `Restore Ban` means), ranks repeat
// offenders, and publishes the results as metrics and as findings in Loki.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
)

// Exit codes of the interface.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const name = "fail2ban-loki-exporter"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// stdio is where a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// common are the flags of all commands.
type common struct {
	configFile string
	configSet  bool // the user named it
	expandEnv  bool
	log        promslog.Config
}

// usageError is a mistake in how the program was called.
type usageError struct{ error }

// command is one of the program's jobs.
type command func(ctx context.Context, log *slog.Logger, io stdio) error

// withStandardInput spells the argument "-", which kingpin does not take, as the
// flag that means the same.
func withStandardInput(args []string) []string {
	args = slices.Clone(args)
	for i, a := range args {
		if a == "-" {
			args[i] = "--input=-"
		}
	}
	return args
}

// run is the program with its surroundings as arguments, so that a test can
// start it. It returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int {
	std := stdio{in: in, out: out, err: errw}
	app := kingpin.New(name, "True bans, restores and repeat offenders of fail2ban, read from Loki.")
	app.UsageWriter(out).ErrorWriter(errw)
	exit := -1
	app.Terminate(func(code int) {
		if exit < 0 {
			exit = code
		}
	})
	app.Version(version.Print(name))
	app.HelpFlag.Short('h')

	var c common
	c.log = promslog.Config{Writer: errw}
	app.Flag("config.file", "Configuration file.").Default(defaultConfigFile).IsSetByUser(&c.configSet).StringVar(&c.configFile)
	app.Flag("config.expand-env", "Expand ${VAR} and ${VAR:-default} in the configuration file.").BoolVar(&c.expandEnv)
	flag.AddFlags(app, &c.log)

	commands := map[string]command{}
	addRun(app, &c, commands)
	addReport(app, &c, commands)
	addCheck(app, &c, commands)

	selected, err := app.Parse(withStandardInput(args))
	if exit >= 0 {
		return exit // --help, --version
	}
	if err != nil {
		fmt.Fprintf(errw, "%s: error: %v, try --help\n", name, err)
		return exitUsage
	}
	err = commands[selected](ctx, promslog.New(&c.log), std)
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		fmt.Fprintf(errw, "%s: error: %v, try --help\n", name, err)
		return exitUsage
	}
	fmt.Fprintf(errw, "%s: error: %v\n", name, err)
	return exitFailed
}
