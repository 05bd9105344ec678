"""The wire of what an account has paid for."""

from pydantic import BaseModel, ConfigDict


class PackageRow(BaseModel):
    """Prepaid time of one GPU model, in seconds; ``dc_list`` are its data centers, separated by commas."""

    gpu_type: str
    total: int
    balance: int
    dc_list: str


class Wallet(BaseModel):
    """Money in 1/1000 yuan: ``assets`` is there, ``accumulate`` was ever spent; ``id`` and ``uid`` are the account."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)
    id: int
    uid: int
    assets: int = 0
    blocked_asset: int = 0
    accumulate: int = 0
    voucher_balance: int = 0
    certain_conditions_voucher_balance: int = 0
    available_coupon_num: int = 0
    to_expire_voucher_num: int = 0
    total_recharge_asset: int = 0
    remittance_code: str = ""
    exclusive_transfer_account: str = ""
    created_at: str
    updated_at: str
