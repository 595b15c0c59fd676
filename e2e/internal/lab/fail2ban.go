package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// Fail2ban is a real fail2ban with a configuration, a database and watched logs
// of its own, all in one folder. It touches no firewall: the action of its
// jails only notes what fail2ban made it do.
type Fail2ban struct {
	Dir   string // short: a socket lies in it
	Jails []Jail // what the next Start configures

	server, client string // binaries
	running        *Server
}

// Jail is one of its jails. It watches a log of its own, see Attack.
type Jail struct {
	Name     string
	BanTime  time.Duration
	MaxRetry int
}

// Action is what fail2ban made a jail's action do: the truth, whatever the log
// says.
type Action struct {
	Time     time.Time
	Op       string // start, stop, ban, unban
	Jail, ID string
	Restored bool // a ban out of the database
}

// NewFail2ban looks for an installed fail2ban.
func NewFail2ban(dir string) (*Fail2ban, error) {
	f := &Fail2ban{Dir: dir}
	for _, bin := range []struct {
		name string
		path *string
	}{{"fail2ban-server", &f.server}, {"fail2ban-client", &f.client}} {
		path, err := exec.LookPath(bin.name)
		if err != nil {
			return nil, fmt.Errorf("lab: fail2ban is not installed: %w", err)
		}
		*bin.path = path
	}
	return f, nil
}

// fail2banFiles is the configuration. The trace is one line for each action:
// epoch|op|jail|id|restored.
var fail2banFiles = map[string]*template.Template{
	"fail2ban.conf": template.Must(template.New("").Parse(`[Definition]
loglevel = INFO
logtarget = {{.Dir}}/fail2ban.log
syslogsocket = auto
socket = {{.Dir}}/s
pidfile = {{.Dir}}/pid
dbfile = {{.Dir}}/db.sqlite3
dbpurgeage = 1d
allowipv6 = auto
`)),
	"jail.conf": template.Must(template.New("").Parse(`[DEFAULT]
backend = polling
usedns = no
ignoreip =
ignoreself = false
findtime = 600
{{range .Jails}}
[{{.Name}}]
enabled = true
filter = login
logpath = {{$.Dir}}/{{.Name}}.auth
action = trace[name={{.Name}}]
maxretry = {{.MaxRetry}}
bantime = {{printf "%.0f" .BanTime.Seconds}}
{{end}}`)),
	"filter.d/login.conf": template.Must(template.New("").Parse(`[Definition]
failregex = ^.*? login\[\d+\]: failed password from <HOST>$
datepattern = ^%%Y-%%m-%%d %%H:%%M:%%S
`)),
	"action.d/trace.conf": template.Must(template.New("").Parse(`[Definition]
{{range .Ops}}action{{.}} = echo "$(date +%%s.%%N)|{{.}}|<name>||0" >> {{$.Dir}}/trace
{{end}}{{range .TicketOps}}action{{.}} = echo "$(date +%%s.%%N)|{{.}}|<name>|<ip>|<restored>" >> {{$.Dir}}/trace
{{end}}
[Init]
name = default
`)),
}

// LogFile is the log that fail2ban writes.
func (f *Fail2ban) LogFile() string { return filepath.Join(f.Dir, "fail2ban.log") }

func (f *Fail2ban) configure() error {
	for name, text := range fail2banFiles {
		path := filepath.Join(f.Dir, "conf", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		config, err := execute(text, struct {
			Dir            string
			Jails          []Jail
			Ops, TicketOps []string
		}{f.Dir, f.Jails, []string{"start", "stop"}, []string{"ban", "unban"}})
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, config, 0o600); err != nil {
			return err
		}
	}
	for _, j := range f.Jails {
		if err := f.append(j.Name+".auth", ""); err != nil {
			return err
		}
	}
	return f.append("trace", "")
}

// Start starts the server in the foreground and waits until all its jails have.
func (f *Fail2ban) Start(ctx context.Context) error {
	if err := f.configure(); err != nil {
		return err
	}
	before, err := f.Trace()
	if err != nil {
		return err
	}
	f.running, err = Start(ctx, Command{
		Name: "fail2ban-server",
		Path: f.server,
		Args: append([]string{"-xf"}, append(f.where(), "start")...),
		Env:  []string{"TZ=UTC", "LC_ALL=C.UTF-8"},
		Dir:  f.Dir,
	})
	if err != nil {
		return err
	}
	return f.running.Poll(ctx, "has not started its jails", func() error {
		rows, err := f.Trace()
		if err != nil {
			return err
		}
		started := map[string]bool{}
		for _, r := range rows[len(before):] {
			if r.Op == "start" {
				started[r.Jail] = true
			}
		}
		if len(started) != len(f.Jails) {
			return fmt.Errorf("%d of %d jails started", len(started), len(f.Jails))
		}
		_, err = os.Stat(filepath.Join(f.Dir, "s"))
		return err
	})
}

func (f *Fail2ban) where() []string {
	return []string{"-c", filepath.Join(f.Dir, "conf"), "-s", filepath.Join(f.Dir, "s"), "-p", filepath.Join(f.Dir, "pid")}
}

// Client runs an administrator's command.
func (f *Fail2ban) Client(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, f.client, append(f.where(), args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("lab: fail2ban-client %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// Stop has the client stop the server, and waits for its end.
func (f *Fail2ban) Stop(ctx context.Context) error {
	if err := f.Client(ctx, "stop"); err != nil {
		return err
	}
	return f.wait(ctx)
}

// Terminate stops the server as a service manager does, by SIGTERM.
func (f *Fail2ban) Terminate(ctx context.Context) error {
	f.running.signal(syscall.SIGTERM)
	return f.wait(ctx)
}

// Kill ends the server without a chance to say so, as a crash does.
func (f *Fail2ban) Kill(ctx context.Context) error {
	f.running.signal(syscall.SIGKILL)
	return f.wait(ctx)
}

func (f *Fail2ban) wait(ctx context.Context) error {
	select {
	case <-f.running.Exited():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("lab: fail2ban-server does not end: %w", context.Cause(ctx))
	}
}

// End ends the server if it still runs.
func (f *Fail2ban) End() {
	if f.running != nil {
		f.running.Stop()
	}
}

// Attack writes as many failures of id as make a ban into the log that a jail
// watches, whether the server runs or not.
func (f *Fail2ban) Attack(jail, id string) error {
	i := slices.IndexFunc(f.Jails, func(j Jail) bool { return j.Name == jail })
	if i < 0 {
		return fmt.Errorf("lab: no jail %s", jail)
	}
	line := fmt.Sprintf("%s web-1 login[77]: failed password from %s\n", time.Now().UTC().Format(stampLayout), id)
	return f.append(jail+".auth", strings.Repeat(line, f.Jails[i].MaxRetry))
}

func (f *Fail2ban) append(name, text string) error {
	file, err := os.OpenFile(filepath.Join(f.Dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

// Trace reads what was done so far.
func (f *Fail2ban) Trace() ([]Action, error) {
	text, err := os.ReadFile(filepath.Join(f.Dir, "trace"))
	if err != nil {
		return nil, err
	}
	var rows []Action
	for line := range strings.Lines(string(text)) {
		p := strings.Split(strings.TrimSuffix(line, "\n"), "|")
		if len(p) != 5 || !strings.HasSuffix(line, "\n") {
			return nil, fmt.Errorf("lab: the trace has %q", line)
		}
		s, err := strconv.ParseFloat(p[0], 64)
		if err != nil {
			return nil, fmt.Errorf("lab: the trace has %q: %w", line, err)
		}
		rows = append(rows, Action{time.UnixMicro(int64(s * 1e6)).UTC(), p[1], p[2], p[3], p[4] == "1"})
	}
	return rows, nil
}
