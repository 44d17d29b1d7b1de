# Shared by scripts/test and scripts/judges: runs steps and reports the time of each. A step is a bash function of the
# calling script. It runs in its own shell (SCRIPT --step NAME), in which set -e ends the step at its first error. The
# calling script is in scripts/ and has changed to the folder above.

results=target/steps/results
groups=()

# Runs one step and records how it ended, its time and its CPU time.
run_step() {
  local name=$1 status=0 started=$SECONDS cpu
  echo "── $name"
  exec 3>&1 4>&2
  cpu=$( { TIMEFORMAT='%U %S'; time "scripts/${0##*/}" --step "$name" >&3 2>&4; } 2>&1 ) || status=$?
  exec 3>&- 4>&-
  awk -v name="$name" -v status="$status" -v wall=$((SECONDS - started)) \
    '{ printf "%s %s %d %.0f\n", name, status ? "FAILED" : "passed", wall, $1 + $2 }' <<<"$cpu" | tee -a "$results" |
    awk '{ print "── " $1 ": " $2 " in " $3 " s, " $4 " s of CPU time" }'
}

# Runs one step, prints its output, and keeps it for the report.
run_logged() {
  run_step "$1" 2>&1 | tee "target/steps/$1.log"
}

# Runs a group of steps in the background, one after the other. The output of each step is printed when it ends.
start_group() {
  # In its own process group, so that an interrupt can end the whole group.
  set -m
  for name in "$@"; do
    run_step "$name" >"target/steps/$name.log" 2>&1
    flock "$results" cat "target/steps/$name.log"
  done &
  set +m
  groups+=($!)
}

end_groups() {
  local group
  for group in "${groups[@]}"; do kill -TERM -- "-$group" 2>/dev/null || true; done
}

begin() {
  mkdir -p target/steps
  rm -f target/steps/*.log
  : >"$results"
  trap 'end_groups; exit 130' INT TERM
}

# What the test runners of Rust, Python and Node printed about each failure, or else the end of the output.
why() { # the name of a failed step
  local log=target/steps/$1.log found
  [[ -f $log ]] || return 0
  found=$(awk '/^(FAIL|ERROR): |^---- .* ----$|^ *✖ |^error/ { left = 40 } left-- > 0' "$log")
  printf '\n── why %s failed\n' "$1"
  awk 'NR <= 120 { print substr($0, 1, 400) }' <<<"${found:-$(tail -n 60 "$log")}"
}

# The table of all steps, and why steps failed. Fails if one failed or is missing.
report() { # the number of steps
  local failed name
  failed=$(grep -c ' FAILED ' "$results" || true)
  awk 'BEGIN { printf "\n%-14s %-8s %8s %8s\n", "step", "result", "seconds", "CPU" }
       { printf "%-14s %-8s %8d %8d\n", $1, $2, $3, $4 }' "$results"
  (($(wc -l <"$results") == $1)) || { echo "steps are missing: $1 should have run" >&2; exit 1; }
  for name in $(awk '$2 == "FAILED" { print $1 }' "$results"); do why "$name"; done
  echo "$(($1 - failed)) passed, $failed failed in $SECONDS s"
  ((failed == 0))
}

# Runs `--step NAME`; otherwise checks that the arguments are names of steps.
dispatch() {
  local name
  if [[ ${1:-} == --step ]]; then
    "$2"
    exit
  fi
  for name in "$@"; do
    [[ " ${steps[*]} " == *" $name "* ]] && continue
    echo "$0: unknown step '$name'; the steps are ${steps[*]}" >&2
    exit 64
  done
}
