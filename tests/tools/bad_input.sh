# Makes what the rows of bad_input.cases use, in the current directory. $LLMPLAN is the binary.
set -eu

# Copies that any user can reach, so that rows can run without root's privileges.
mkdir bin data
cp "$LLMPLAN" bin/llmplan
cp -r "$SOURCE/models" "$SOURCE/hardware_profiles" "$SOURCE/runtimes" data/
chmod -R a+rX . "$PWD/.."

i=0
while [ $i -lt 2000 ]; do
  printf 'line %d: the quick brown fox jumps over the lazy dog\n' $i
  i=$((i + 1))
done >text.txt
: >empty.txt
printf 'short' >short.txt
mkdir folder empty_folder

# A Megatron pair: two documents [1,2,3],[4,5], and its damaged relatives.
index() {
  printf 'MMIDIDX\0\0\1\0\0\0\0\0\0\0\10\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0'
  printf '\3\0\0\0\2\0\0\0\0\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0'
  printf '\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0'
}
tokens() { printf '\1\0\2\0\3\0\4\0\5\0'; }
index >good.idx; tokens >good.bin
index | head -c 40 >cut.idx; tokens >cut.bin
index >less.idx; tokens | head -c 6 >less.bin
tokens >lonely.bin
index | tr M X >magic.idx; tokens >magic.bin
index >huge.idx; printf '\377\377\377\377\377\377\377\77' | dd of=huge.idx bs=1 seek=18 conv=notrunc 2>/dev/null; tokens >huge.bin
: >nothing.idx; : >nothing.bin

"$LLMPLAN" tune tiny-1m --seq 64 --global-batch 4 --micro-batch 2 --dp 1 --tp 1 --pp 1 -o plan.json >/dev/null 2>&1
sed 's/"llmplan.plan\/1"/"llmplan.plan\/0"/' plan.json >older.json
sed 's/"llmplan.plan\/1"/"llmplan.plan\/7"/' plan.json >newer.json
sed 's/"llmplan.plan\/1"/"somebody.else\/1"/' plan.json >foreign.json
sed 's/"hidden_size": *128/"hidden_size": 256/' plan.json >edited.json
sed 's/"micro_batch"/"micro_bach"/' plan.json >renamed.json
head -c 300 plan.json >cut.json
: >empty.json
printf '[1, 2, 3]\n' >list.json
printf '\377\376\0\1garbage' >binary.json
cmp -s plan.json edited.json && { echo "the edit of the plan did nothing" >&2; exit 1; }

# A finished run, and one in progress would find it locked.
"$LLMPLAN" run plan.json --data text.txt --out done --steps 2 >/dev/null 2>&1
cp -r done damaged
for f in damaged/checkpoints/*.safetensors; do printf 'XXXX' | dd of="$f" bs=1 seek=60000 conv=notrunc 2>/dev/null; done
cp -r done cut_run
for f in cut_run/checkpoints/*.safetensors; do head -c 5000 "$f" >"$f.new"; mv "$f.new" "$f"; done
cp -r done broken_report
echo '{"schema": "llmplan.report/1", "steps": ' >broken_report/report.json
mkdir unfinished; touch unfinished/metrics.jsonl

# Hand-written profiles.
model() { cat "$SOURCE/models/tiny-1m.yaml"; }
model | sed 's/num_hidden_layers/num_hiden_layers/' >typo.yaml
model | sed 's/^hidden_size:.*/hidden_size: 010/' >octal.yaml
model | sed 's/^hidden_size:.*/hidden_size: -128/' >negative.yaml
model | sed 's/^hidden_size:.*/hidden_size: .nan/' >nan.yaml
model | sed 's/^num_hidden_layers:.*/num_hidden_layers: 1000000000000000000/' >layers.yaml
model | sed 's/^vocab_size:.*/&\nvocab_size: 5/' >twice.yaml
model | sed 's/^hidden_size:.*/hidden_size: 130/' >heads.yaml
printf 'hidden_size: [1, 2\n' >syntax.yaml
: >empty.yaml
mkdir strange_model
printf '{"model_type": "qwen99_moe", "hidden_size": 64}\n' >strange_model/config.json
mkdir broken_model
printf '{"model_type": "llama", ' >broken_model/config.json
device() { cat "$SOURCE/hardware_profiles/h100-80g-sxm.yaml"; }
device | sed 's/GiB/GHz/' >unit.yaml
device | sed 's/^memory:.*/memory: 80/' >no_unit.yaml
cp plan.json secret.json
