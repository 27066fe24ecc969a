// Which kind the board shows; kinds that this token may not read are listed, but closed.
import type { Kind } from '../api/types';
import { useLang } from '../i18n/useLang';

interface Props {
  kinds: Kind[];
  value: string;
  onChange: (kind: string) => void;
}

export function KindSelect({ kinds, value, onChange }: Props) {
  const { t } = useLang();
  return (
    <label className="field kind">
      <span>{t('board.kind')}</span>
      <select value={value} onChange={(event) => onChange(event.target.value)}>
        {value === '' && <option value="" />}
        {kinds.map((it) => (
          <option key={it.kind} value={it.kind} disabled={!it.readable}>
            {it.readable ? it.kind : t('board.unreadable', { kind: it.kind })}
          </option>
        ))}
      </select>
    </label>
  );
}
