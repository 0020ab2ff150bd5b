#!/bin/busybox sh
# The guest's first process: a workload that checks itself, then power-off.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
cpus=$(nproc)
echo "workload: $cpus CPUs, $(uname -sr)"

# A CPU goes and comes back.
last=/sys/devices/system/cpu/cpu$((cpus - 1))/online
if [ "$cpus" -gt 1 ]; then
    echo 0 >"$last" && echo 1 >"$last" || echo "workload: WRONG: the last CPU does not come back"
    [ "$(nproc)" = "$cpus" ] || echo "workload: WRONG: $(nproc) CPUs"
fi

# Writes, copies and compares a file, starts processes, fills memory; as long as it is told to.
work() {
    rounds=0
    while [ "$(date +%s)" -lt "$end" ]; do
        dd if=/dev/urandom of="/tmp/a$1" bs=64k count=24 2>/dev/null
        cp "/tmp/a$1" "/tmp/b$1"
        cmp "/tmp/a$1" "/tmp/b$1" || echo "workload: WRONG: files differ"
        n=0
        while [ $n -lt 10 ]; do
            [ "$(echo $n | /bin/busybox cat)" = $n ] || echo "workload: WRONG: a process said something else"
            n=$((n + 1))
        done
        one=$(head -c 6000000 /dev/zero | tail -c 5000000 | md5sum)
        two=$(head -c 5000000 /dev/zero | md5sum)
        [ "$one" = "$two" ] || echo "workload: WRONG: memory differs"
        rm "/tmp/a$1" "/tmp/b$1"
        rounds=$((rounds + 1))
    done
    echo "workload: worker $1 made $rounds rounds"
}

end=$(($(date +%s) + ${workload:-5}))
worker=0
while [ $worker -lt "$cpus" ]; do
    work $worker &
    worker=$((worker + 1))
done
wait
echo "workload: done"
poweroff -f
