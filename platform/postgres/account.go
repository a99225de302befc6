package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user the server runs as: this process's own, or an
// unprivileged one when this process is root.
type account struct {
	uid, gid int
	switched bool
}

func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return &account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(found.Uid)
		gid, gidErr := strconv.Atoi(found.Gid)
		if uidErr == nil && gidErr == nil && uid != 0 {
			return &account{uid: uid, gid: gid, switched: true}, nil
		}
	}
	return nil, errors.New("postgres does not run as root, and this system has neither a user postgres nor a user nobody: run as an ordinary user")
}

func (a *account) sysProcAttr(deathSignal syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us; we stop it in order
	if a.switched {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	setDeathSignal(attr, deathSignal)
	return attr
}

func (a *account) own(path string) error {
	if !a.switched {
		return nil
	}
	if err := os.Lchown(path, a.uid, a.gid); err != nil {
		return fmt.Errorf("give %s to the postgres user: %w", path, err)
	}
	return nil
}

// mustOwn fails unless path is a directory that belongs to the account.
func (a *account) mustOwn(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != a.uid {
		return fmt.Errorf("%s exists and is not ours", path)
	}
	return nil
}

// prepareDir makes dir and gives it, with all that is in it, to the account.
// A clone that was used as root and as a user in turn is thereby repaired when
// root uses it, and named when the user cannot.
func prepareDir(dir string, a *account) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the cluster directory: %w", err)
	}
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("look into the cluster directory: %w", err)
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look into the cluster directory: %w", err)
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok || int(stat.Uid) == a.uid {
			if path != dir && path != filepath.Join(dir, "data") && entry.IsDir() {
				return fs.SkipDir // deeper files share their directory's owner
			}
			return nil
		}
		if !a.switched {
			return fmt.Errorf("%s belongs to another user (uid %d): remove the directory or run as that user", path, stat.Uid)
		}
		return a.own(path)
	})
}

// ReachableDir returns a directory for a private cluster: dir itself or, when
// this process is root and the server's user cannot enter one of dir's parents
// (a clone below /root), a directory of the same purpose below /var/lib.
func ReachableDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the cluster directory: %w", err)
	}
	a, err := serverAccount()
	if err != nil {
		return "", err
	}
	if !a.switched || a.canEnter(filepath.Dir(dir)) {
		return dir, nil
	}
	return filepath.Join("/var/lib/tidemark", pathDigest(dir)), nil
}

// pathDigest names a path in a few letters.
func pathDigest(path string) string {
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:6])
}

// canEnter reports whether the account may pass every existing directory on
// the way to path.
func (a *account) canEnter(path string) bool {
	for ; ; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err == nil {
			stat, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				return false
			}
			bit := fs.FileMode(0o001)
			switch {
			case int(stat.Uid) == a.uid:
				bit = 0o100
			case int(stat.Gid) == a.gid:
				bit = 0o010
			}
			if info.Mode().Perm()&bit == 0 {
				return false
			}
		}
		if path == filepath.Dir(path) {
			return true
		}
	}
}
