package qemu

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ublkremap/test/vmtest/kernel"
)

// kvmTrial is how long a kernel may take to boot under KVM, which takes less
// than two seconds where KVM works.
const kvmTrial = 20 * time.Second

// Accelerator decides between KVM and emulation. trial boots a small guest
// under KVM and says whether it gave its result; it is asked once, and the
// answer is kept in cacheDir until the machine is restarted or QEMU changes.
func Accelerator(ctx context.Context, cacheDir string, trial func(context.Context) error,
	logf func(string, ...any)) (string, error) {
	dev, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG, nil // none, or not for this user
	}
	_ = dev.Close()
	return decide(ctx, cacheDir, trial, logf)
}

// decide is Accelerator where /dev/kvm can be opened.
func decide(ctx context.Context, cacheDir string, trial func(context.Context) error,
	logf func(string, ...any)) (string, error) {
	verdict, err := verdictFile(cacheDir)
	if err != nil {
		return "", err
	}
	if v, ok := readVerdict(verdict); ok {
		return v, nil
	}
	unlock, err := kernel.Lock(cacheDir, "kvm.lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if v, ok := readVerdict(verdict); ok {
		return v, nil
	}
	trialCtx, cancel := context.WithTimeout(ctx, kvmTrial)
	defer cancel()
	v := KVM
	if err := trial(trialCtx); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err() // interrupted: that is no verdict
		}
		v = TCG
		logf("/dev/kvm exists, but no kernel boots with it here (%v): emulating", err)
	}
	return v, os.WriteFile(verdict, []byte(v+"\n"), 0o644)
}

func readVerdict(file string) (string, bool) {
	raw, err := os.ReadFile(file)
	v := strings.TrimSpace(string(raw))
	return v, err == nil && (v == KVM || v == TCG)
}

// verdictFile is named by what the verdict depends on: this start of this
// machine, and this QEMU.
func verdictFile(cacheDir string) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, _ = h.Write(boot)
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if st, err := os.Stat(filepath.Join(dir, Binary)); err == nil {
			_, _ = fmt.Fprintf(h, "%d %d", st.Size(), st.ModTime().UnixNano())
			break
		}
	}
	return filepath.Join(cacheDir, fmt.Sprintf("kvm-%x", h.Sum(nil)[:8])), nil
}
